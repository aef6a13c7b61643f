"""llama.cpp's OpenAI server in a process of its own: ``python llama_server.py LANGUAGE MMPROJ PORT``."""

from __future__ import annotations

import sys
import time

import xllamacpp


def main() -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.mmproj.path = sys.argv[1], sys.argv[2]
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[3])
    parameters.n_parallel = 2
    parameters.n_ctx = 16384
    parameters.use_jinja = True
    # 32 bits, and no fused attention: the answers are compared with those of transformers.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = 1
    server = xllamacpp.Server(parameters)
    print("ready", server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()

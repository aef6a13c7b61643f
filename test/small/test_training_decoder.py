"""The mask decoder for many prompts gives the numbers of transformers' own."""

import pytest
import torch

from lisa_ros.lisa.model.mask_decoder import decode_and_look, decode_prompts
from lisa_ros.lisa.model.sam import image_positions, new_sam
from lisa_small.training.model import build_sam


def test_many_prompts_of_many_images_equal_one_by_one():
    torch.manual_seed(0)
    sam = build_sam(32, 64, 8, 48)
    embeddings, prompts = torch.randn(2, 32, 8, 8), torch.randn(2, 3, 32)
    positions = sam.get_image_wide_positional_embeddings()
    assert torch.equal(positions, image_positions(sam, 8))
    dense = sam.prompt_encoder.no_mask_embed.weight[:, :, None, None]
    with torch.no_grad():
        for parameter in sam.mask_decoder.parameters():  # biases start at zero, where mistakes hide
            parameter.add_(0.1 * torch.randn_like(parameter))
        ours, looks = decode_and_look(sam, embeddings, positions, prompts)
        theirs = sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand(2, -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, :, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )[0][:, :, 0]
    assert ours.shape == (2, 3, 32, 32)
    assert [look.shape for look in looks] == [(6, 8, 3, 64)] * 2
    assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("tokens", [1, 13])
def test_several_tokens_of_a_prompt_equal_one_image_at_a_time(tokens):
    """Attention of half the width, as in SAM: many tokens take the other way of multiplying."""
    torch.manual_seed(0)
    sam = build_sam(32, 64, 8, 48)
    decoder = sam.config.mask_decoder_config
    decoder.attention_downsample_rate = 2
    sam = new_sam(sam.config)
    embeddings, prompts = torch.randn(2, 32, 8, 8), torch.randn(2, 3, tokens, 32)
    positions = image_positions(sam, 8)
    with torch.no_grad():
        together = decode_prompts(sam, embeddings, positions, prompts)
        theirs = sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.expand(2, -1, -1, -1),
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=sam.prompt_encoder.no_mask_embed.weight[:, :, None, None],
            multimask_output=False,
        )[0][:, :, 0]
    torch.testing.assert_close(together, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())

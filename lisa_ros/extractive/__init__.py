"""Extract, do not generate: masks are proposed first, then the language model chooses among them."""

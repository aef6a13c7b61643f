"""Extractive models: masks are proposed first, and the language model chooses among them."""

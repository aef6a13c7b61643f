"""Proposers: what turns a frame into candidate masks. ``registry`` lists them."""

"""The networks of extractive models."""

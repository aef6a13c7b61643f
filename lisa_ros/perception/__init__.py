"""Masks, metres, tracks and pixels: no model, no ROS."""

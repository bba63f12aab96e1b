"""What clouds tell their machines: a cloud is one file, and a line in `catalog.py`."""

"""Image formats that need more than Pillow gives: BMP is read faster; the others are searched for silent damage."""

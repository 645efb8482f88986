"""What runs have done, as one HTML file that opens anywhere."""

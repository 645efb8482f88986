"""What an experiment costs on given devices, before anything runs on them."""

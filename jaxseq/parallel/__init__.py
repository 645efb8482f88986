"""Device meshes and the table of rules that shards parameters over them."""

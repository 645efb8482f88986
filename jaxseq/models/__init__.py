"""One architecture a file: its frozen config dataclass and its module."""

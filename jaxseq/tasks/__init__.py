"""What a batch means: losses as (sum, weight), metrics and predictions."""

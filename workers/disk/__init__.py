"""What a node keeps on disk: unpacked bundles, run folders and pool slots."""

"""The store of 3D scenes: files of every format in, versions and edits kept, states known by their content."""

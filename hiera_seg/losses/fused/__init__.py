"""Sum losses over pixels and compute their gradients in the same pass, in tiles or on a GPU."""

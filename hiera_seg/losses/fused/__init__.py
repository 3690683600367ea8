"""Sum losses over pixels, value and gradient in one pass: in tiles, or by one GPU kernel."""

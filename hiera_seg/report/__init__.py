"""Write the html report of an evaluation: its data, images, page and assets."""

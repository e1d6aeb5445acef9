"""Reading and writing weight files safely: their names, parts and kinds; nothing in a file is ever run."""

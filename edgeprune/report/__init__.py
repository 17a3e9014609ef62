"""What people read: the screen, the page, the model card. Records in, text out."""

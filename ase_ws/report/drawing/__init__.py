"""What the pages have in common: templates, text, looks, axes, pictures."""

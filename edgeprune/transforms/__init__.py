"""Changes of a model before widths are chosen: masks made physical, linear collapse."""

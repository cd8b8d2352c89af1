"""Results as plain data: what MD and the stability suite find, and what a report shows."""

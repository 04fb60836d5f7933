"""One module per contestant: ``build(url)`` returns the shop with that contestant's sessions."""

"""A web page for dno."""

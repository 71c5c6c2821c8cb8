"""Networks that compose the elements of finite groups, several seeds each, and the script."""

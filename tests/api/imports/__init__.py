"""Reading the bodies of imports."""

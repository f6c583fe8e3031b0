"""What a plugin's own tests need: tiny real models and checks of each contract."""

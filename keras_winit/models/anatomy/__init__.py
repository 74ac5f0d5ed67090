"""What a model is made of: its variables, their fans, and what lies between its layers."""

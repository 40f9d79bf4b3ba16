"""The worker image: everything slow. It takes messages, classifies, and stores."""

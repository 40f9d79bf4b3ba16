"""Classification: what a model is, how it is stored, trained and measured."""

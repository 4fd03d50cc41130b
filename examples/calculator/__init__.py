"""Number questions and a calculator: the first experiment of the Agent Lightning paper in small."""

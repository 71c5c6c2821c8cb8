"""Models trained to implement known circuits: weights, training and card."""

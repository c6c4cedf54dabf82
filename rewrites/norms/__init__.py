"""Layer normalisation and root-mean-square normalisation become one operator, scale and bias included."""

"""The ways of speaking, and the clients that speak them."""

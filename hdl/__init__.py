"""The RTL, its simulations, proofs and bitstreams."""

"""The other side: what a backend does with what agents publish, as a reference, for tests and for small fleets."""

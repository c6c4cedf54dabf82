"""Frontends: one module a source of models, found by ``olc.frontend`` walking this package. See ``Frontend`` there."""

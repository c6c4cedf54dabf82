"""Re-export the models with torch, transformers and Keras, and rewrite the skeletons.

Nothing outside this folder imports those frameworks, and nothing here is imported on the default path.
One module per recipe, of the same name; each has `exports()`, a generator of `common.Export`.
"""

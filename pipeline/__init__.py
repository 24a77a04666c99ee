"""T1 Index: a corpus of documents becomes a reasoning-aware search index.

Layers, top to bottom; imports only point downwards and siblings do not import each other (import-linter holds this):

    jobs -> pipeline.flows -> pipeline.{corpus, text, model, store, evaluation}
         -> pipeline.{settings, prompts, fingerprint, records, storage, errors}
"""

__version__ = "0.1.0"

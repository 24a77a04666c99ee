"""Models: where their files are, how they are loaded, and how texts become vectors.

`bundle`, `checkpoint`, `tokenizer` and `identity` are free of torch, so that a run with nothing to do, a plan or a read
task never imports it; `loading`, `packed` and the encoders import it.
"""

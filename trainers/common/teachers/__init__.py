"""Vision-language teachers of step-based trainers.

teacher.py          what a teacher is; CLIP and Python callables as teachers; class embeddings
http.py             a black-box teacher at an HTTP endpoint
transport.py        one HTTP request: bounded in time and size, careful with the token
build.py            teachers by name
deploy.py           the deployed classifier: pixels in, logits out
new_classes.py      new class names for a deployed classifier
"""

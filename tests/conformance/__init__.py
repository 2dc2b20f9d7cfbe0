"""Does an image keep SageMaker's container contract? `python -m tests.conformance IMAGE …`, for any image, not only ours.

It starts the image as SageMaker would, on the local Docker engine, and prints one line per rule, with the page it comes from:
pass; fail, where the image breaks what AWS's documentation demands; advice, where it does what no page forbids but what costs
somebody later; not tried, and why. Where a job does not complete or a server does not start, what builds on it is not tried.
"""

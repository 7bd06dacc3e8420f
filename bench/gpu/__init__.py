"""`python -m bench gpu`: everything that is to be measured on a GPU, in one command."""

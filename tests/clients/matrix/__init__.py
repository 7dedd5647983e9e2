"""Real clients against a service whose connections move: `make clients`.

Each client of `roster` goes through each scene of `scenes`. The results are the matrix in
`docs/clients.md`.
"""

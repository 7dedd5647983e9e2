"""Real clients against a service whose connections move: `make clients`.

Each client of `roster` goes through each scene of `scenes`. What each saw is the matrix that
`docs/clients.md` shows.
"""

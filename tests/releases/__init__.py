"""What was released, kept for ever: each release's code as a wheel, and batons that it sealed.

`python -m tests.releases.make` adds the present version; it refuses to change what is there. The
tests take connections between the present code and the last release both ways, and open every
release's batons, or see them refused by name where they are too old.
"""

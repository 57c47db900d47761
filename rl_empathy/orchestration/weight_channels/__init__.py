"""How the trainer's weights reach the rollout workers, one file a way.

channel        what publishing asks of a way
object_store   through Ray's object store: a copy a node, which its workers map
folder         from a model folder that every node can read
"""

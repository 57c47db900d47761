"""The served model: an OpenAI-compatible endpoint on loopback (Ray Serve).

app             serve(): start, say where, stop                   the driver
cluster         the Ray cluster, and the signals that stop it
ingress         HTTP: check the request, shape the reply          a Ray Serve deployment
policy_server   ray.serve.llm, and vLLM below it                  a Ray Serve deployment
reply           raw text of the model to answer and reasoning     no Ray
schemas         what a client may send, and the shapes of replies  no Ray
"""

from rl_empathy.serving.app import serve

__all__ = ["serve"]

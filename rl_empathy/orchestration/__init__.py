"""Floor 4: what happens when.

run              the stages of a run file, one after the other
grpo             the asynchronous loop
rollouts         the half of the loop that starts prompts, and has them sampled and scored
steps            the half of the loop that trains: what a step is
group_buffer     groups between "prompt started" and "weights published"
fleet/           typed handles over the actors; in training the only place that calls them
placement        a Ray cluster that has what the plan needs
step_times       how long the steps take, and what of it is waited
weight_sync      publishing a policy version
ray_train        stages that train in workers of Ray Train
tokenizing       rows as fine-tuning samples, in several processes where there are many
roles            each role, started with what the run file says of it
scaling          how many rollout workers a run should have
stages/          one file a stage
opening          what comes before any stage: the data, the run directory, the room
side_by_side     an evaluation by hand
"""

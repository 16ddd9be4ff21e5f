"""An adapter in a model: finding its modules, and changing their factors.

`modules` (LoraModule, find_lora_modules), `surgery` (write_factors, shrink, truncate_adapter), `optimizer_state`
(forget_removed), `peft` (describe_adapter, name_in_base), `initialisation` (those that change the base model),
`unfinished` (marks of those that are being pruned), `sharding` (factors whose parts lie in several processes).
"""

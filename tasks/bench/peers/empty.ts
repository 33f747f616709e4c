// Nothing: what a process of Deno takes, whatever it does.

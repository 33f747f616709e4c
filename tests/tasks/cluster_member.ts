/** A joined process that serves the jobs of the pool's tests as well. */
import type { Jobs, Service } from "../../mod.ts";
import { addressOf } from "../../tasks/cluster/address.ts";
import { JOBS, whole } from "../../tasks/cluster/jobs.ts";
import { Member, SERVICES } from "../../tasks/cluster/member.ts";
import { Root } from "../../tasks/cluster/roots.ts";
import { service as jobs } from "../pool/jobs.ts";
import { service as setups } from "../pool/setups.ts";

/** Offers the jobs of the tests, as if they were one of the two services. */
export function offerTestJobs(): void {
  for (const [name, service] of Object.entries({ jobs, setups })) {
    SERVICES[name] = service as unknown as Service<Jobs>;
    const names = Object.keys(service.jobs);
    const translate = (item: unknown) => whole(item);
    JOBS[name] = Object.fromEntries(names.map((job) => [job, { translate }]));
  }
}

if (import.meta.main) {
  offerTestJobs();
  const [url] = Deno.args;
  const root = new Root("/");
  const options = { root, workers: 2, wait: 60, say: console.log };
  const address = addressOf(url);
  const member = await Member.join({
    ...options,
    address,
    warn: console.error,
  });
  console.log("ready");
  await member.ended;
}

/** daemon-answers — what legerd's own routes answer, and how to tell that it is that. */
import { z } from "zod";
import { isErrorCode, type ErrorCode } from "../core/error.ts";

const Service = z.object({ name: z.string(), variables: z.record(z.string(), z.string()) });

const Socket = z.object({ there: z.boolean(), path: z.string().optional() });

const Credentials = z.object({
  name: z.string(),
  set: Socket,
  files: Socket,
  problems: z.array(
    z.object({
      kind: z.string(),
      what: z.string(),
      hints: z.array(z.string()),
      variable: z.string().optional(),
      secret: z.string().optional(),
    }),
  ),
});

const Grants = z.array(z.object({ action: z.array(z.string()), secret: z.array(z.string()) }));

const Token = z.object({
  name: z.string(),
  grants: Grants,
  created: z.string(),
  expires: z.string().optional(),
});

const Door = z.object({
  name: z.string().optional(),
  unix: z.string(),
  mode: z.string(),
  group: z.string().optional(),
  principal: z.string(),
  grants: Grants.optional(),
  routes: z.array(z.string()).optional(),
});

const ANSWERS = {
  status: z.object({
    version: z.string(),
    pid: z.number(),
    started_at: z.string(),
    secrets: z.number(),
    services: z.number(),
    podman_entries: z.number(),
    state_dir: z.string(),
    database: z.string(),
    main_key: z.string(),
    audit_log: z.string(),
    // A legerd that is older than this leger says nothing of it.
    last_backup: z.object({ made_at: z.string(), changes_since: z.number() }).nullish(),
    verification: z
      .object({
        state: z.string(),
        at: z.string().optional(),
        problems: z.array(z.string()).optional(),
        reason: z.string().optional(),
      })
      .optional(),
  }),
  service: Service,
  services: z.object({ services: z.array(Service) }),
  credentials: Credentials,
  unserved: z.object({ services: z.array(Credentials) }),
  links: z.object({ entries: z.array(z.object({ id: z.string(), secret: z.string().optional() })) }),
  newToken: Token.omit({ created: true }).extend({ token: z.string() }),
  tokens: z.object({ tokens: z.array(Token) }),
  doors: z.object({ doors: z.array(Door) }),
  audit: z.object({
    ok: z.boolean(),
    lines: z.number(),
    unnumbered: z.number(),
    problems: z.array(z.string()),
  }),
  deletion: z.object({}),
};

/** By what was asked for. */
export type Answers = { [Asked in keyof typeof ANSWERS]: z.infer<(typeof ANSWERS)[Asked]> };

/** Undefined for anything else than a good answer. */
export function answerIn<Asked extends keyof Answers>(
  json: unknown,
  asked: Asked,
): Answers[Asked] | undefined {
  const shapes: { readonly [Each in keyof Answers]: z.ZodType<Answers[Each]> } = ANSWERS;
  return shapes[asked].safeParse(json).data;
}

const Failure = z.object({
  error: z.object({
    code: z.custom<ErrorCode>(isErrorCode),
    message: z.string(),
    hints: z.array(z.string()).default([]),
  }),
});

/** Why legerd refuses; undefined where it doesn't say. */
export function failureIn(json: unknown): z.infer<typeof Failure>["error"] | undefined {
  return Failure.safeParse(json).data?.error;
}
